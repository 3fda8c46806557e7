"""Put a model directory into the package as the bundled nano model, in bfloat16: python recipes/ship_nano.py runs/nano-base/model"""

import shutil
import sys
from pathlib import Path

import lzero
from lzero.models import load_model, load_tokenizer, save_model

if __name__ == "__main__":
    source = Path(sys.argv[1])
    target = Path(lzero.__file__).parent / "assets" / "nano"
    model, tokenizer = load_model(source, dtype="bfloat16", device="cpu"), load_tokenizer(source)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    save_model(model, tokenizer, target)
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()):,} bytes")
