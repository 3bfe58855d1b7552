"""The mathematics: pure functions and small classes on tensors and arrays, which know no model and no AnnData."""
