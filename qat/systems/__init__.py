"""Systems of several models: a detector that feeds a landmark net that feeds a classifier, quantized and judged together."""
