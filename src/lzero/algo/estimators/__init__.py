"""Estimators of advantages, one a file. A new file here needs no other edit."""
