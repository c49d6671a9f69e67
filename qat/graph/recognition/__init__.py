"""Recognition: functions that a model writes in pieces become the operators that they are."""
