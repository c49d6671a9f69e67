"""Random graphs: what they are (``specs``) and the models of each framework that compute them."""
