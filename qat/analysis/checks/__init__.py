"""Checks of calibration data: enough of them, of every class, real, not augmented, preprocessed as at inference."""
