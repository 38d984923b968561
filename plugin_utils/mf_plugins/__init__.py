"""The common code of the action plugins. It runs on the controller."""
