package main

import (
	"github.com/farside-storage/farside/bench"
	"github.com/farside-storage/farside/internal/scale"
)

// Package bench reaches no manager and no primary, so what needs whole roles in one process is added here.
func init() { bench.Add(scale.Workload()) }
