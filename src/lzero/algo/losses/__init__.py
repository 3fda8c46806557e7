"""Losses, one a file. A new file here needs no other edit."""
