"""The ``.tflite`` exporter."""
