"""The integer program: a trained model as the runtime will see it, its construction and its interpreter."""
