"""What is measured beside other libraries, as scripts that anyone can run: see docs/benchmarks.md."""
