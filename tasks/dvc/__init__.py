"""The only code that talks to DVC."""
