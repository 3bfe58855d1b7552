"""The user's cells: what was registered of them, the checks, and minibatches from memory, disk or a loader."""
