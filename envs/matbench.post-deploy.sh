#!/usr/bin/env bash
# The pins of matbench 0.6 name packages of 2022; it works with those of this environment.
set -euo pipefail
pip install --no-deps matbench==0.6
