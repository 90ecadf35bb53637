"""The vLLM backend; its engine module is the only one that imports vllm."""
