"""From a config to a trained flow, its metrics, its samples and its report."""
