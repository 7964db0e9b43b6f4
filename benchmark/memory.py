"""Largest memory of a command and all its processes at the same time, in MB: python benchmark/memory.py COMMAND ...

Shared pages count once (proportional set size), so that forked folds are not charged for what they inherit.
"""

import argparse
import subprocess
import sys
import time

import psutil

INTERVAL = 0.5  # seconds between two looks


def proportional(process):
    """Proportional set size of one process in bytes; zero where it has ended."""
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a program and its arguments")
    words = parser.parse_args().command
    if not words:
        parser.error("name a command")
    try:
        command = subprocess.Popen(words)
    except OSError as error:
        parser.error(f"{words[0]}: {error.strerror}")
    root, largest, number = psutil.Process(command.pid), 0, 0
    while command.poll() is None:
        try:
            processes = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        total = sum(map(proportional, processes))
        if total > largest:
            largest, number = total, len(processes)
        time.sleep(INTERVAL)
    print(f"largest memory {largest / 1e6:,.0f} MB with {number} processes")
    sys.exit(command.wait())
