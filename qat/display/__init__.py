"""Display: tables and sentences, laid out for a terminal of any width, a pipe or a notebook."""
