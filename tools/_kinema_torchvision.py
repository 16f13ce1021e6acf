"""Declares torchvision's operators before its first import, for a torch without the compiled ones.

With a CPU-only torch the wheel of torchvision cannot load its operators and fails on import with "operator
torchvision::nms does not exist". `setup_env.py` puts this file into such an environment, started by a `.pth` file.
"""

import importlib.abc
import sys


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN202  runs in every process: no typing
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch  # noqa: PLC0415  only once torchvision is wanted

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept.append(library)


_kept = []  # declarations last as long as their library
sys.meta_path.insert(0, _Finder())
