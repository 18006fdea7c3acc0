"""Scripts that measure this library and others side by side, see docs/benchmarks.md."""
