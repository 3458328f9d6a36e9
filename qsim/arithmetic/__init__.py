"""What an operation does: the exact real result, rounded as the emulated hardware rounds it."""
