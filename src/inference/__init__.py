"""Applying a trained model: to an array, to a plate; imported by full names, so that nothing heavy comes along."""
