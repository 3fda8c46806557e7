"""Estimators of advantages, one per file. A new file here is found without a list to edit."""
