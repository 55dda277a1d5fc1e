"""Amazon ECR as a tier: what is pulled is written through to every target, and read back on a miss."""
