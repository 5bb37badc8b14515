"""Tests of exports under kills, full disks, power losses and damaged files."""
