"""stub"""

from pathlib import Path


def write_page(plan, results, refresh):
    return Path("x")
