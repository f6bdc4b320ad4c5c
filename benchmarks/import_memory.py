"""Peak memory of building and importing VGG-13, over the size of its weights.

Usage: KERAS_BACKEND=torch python benchmarks/import_memory.py

Linux only: it reads the kernel's high-water mark of resident memory over what a
small model's import has left, which has loaded all libraries. Other processes
write the checkpoints first.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

_WRITE = """
import sys, numpy as np
from gnsmall_keras import create_model, to_torch_state_dict
state = to_torch_state_dict(create_model(sys.argv[2]))
if sys.argv[1].endswith(".pth"):
    import torch
    state = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save(state, sys.argv[1])
else:
    from safetensors.numpy import save_file
    save_file(state, sys.argv[1])
"""
_READ = """
import json, pathlib, sys
import keras
from gnsmall_keras import count_parameters, create_model, load_torch_weights
load_torch_weights(create_model("gns"), sys.argv[2])

def resident(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) * 1024

pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before = resident("VmRSS")
model = create_model("vgg13_bn")
load_torch_weights(model, sys.argv[1])
print(json.dumps({
    "backend": keras.config.backend(),
    "peak": resident("VmHWM") - before,
    "weights": 4 * sum(w.size for w in model.get_weights()),
}))
"""


def _run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def main() -> None:
    """Prints the ratio of either kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".pth", ".safetensors"):
            names = ("vgg13_bn", "gns")
            paths = [str(Path(folder) / (name + suffix)) for name in names]
            for name, path in zip(names, paths, strict=True):
                _run(_WRITE, path, name)
            found = json.loads(_run(_READ, *paths).splitlines()[-1])
            print(
                f"vgg13_bn{suffix} on {found['backend']}: peak "
                f"{found['peak'] / 1e6:.0f} MB, "
                f"{found['peak'] / found['weights']:.2f} x the weights"
            )


if __name__ == "__main__":
    main()
