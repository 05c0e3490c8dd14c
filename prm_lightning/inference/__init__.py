"""From a trained model to scores."""
