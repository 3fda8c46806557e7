"""Plug-in of vLLM: the backend "lzero-file" for weight transfer. vLLM finds it by its entry point, and calls `register` in each process."""


def register() -> None:
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if "lzero-file" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("lzero-file", "lzero_weights.file", "FileWeights")
