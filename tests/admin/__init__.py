"""The admin port: who may read, who may change."""
