"""Framework adapters. Both have the same face: ``trace``, ``insert``, ``lower`` and what calibration and verification need."""
