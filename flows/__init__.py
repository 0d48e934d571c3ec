"""The runbooks: each flow reads like one and holds no arithmetic."""
