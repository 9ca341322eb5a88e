"""Search over configs: trials on shared states, the front that they leave, and the decision of a person."""
