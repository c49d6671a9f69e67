"""What to know of data, layers and artifacts: data checks, sensitivity, mixed precision, diagnosis."""
