"""What all tests share."""

from hypothesis import settings

# A busy machine is no bug: an example may take as long as it needs, within the test's own timeout.
settings.register_profile("lzero", deadline=None)
settings.load_profile("lzero")
