"""The plug-in packages below are not ours to collect: they are installed and tested by `test_repo_plugins.py`."""

collect_ignore = ["plugins"]
