"""Files: sources, staging, publishing, keys, manifest and replay stores."""
