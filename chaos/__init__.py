"""The fault suite: breaks real lab hosts on purpose and holds what happens against what was promised."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "lab"))  # mflab: containers, faked load, mail
