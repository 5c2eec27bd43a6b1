package bench

// Judged is r with medians, spread and verdict computed from the repetitions. For programs that measure outside this
// package and report as it does (bench/peers); r names the figure, its unit, its floor and its goal.
func Judged(r Result, reps []Repetition) Result { return result(r, reps) }

// AtLeast is a goal that a ratio (where there is a floor) or a value must not be below.
func AtLeast(bound float64) *Target { return atLeast(bound) }

// RoomFor says why a file of size bytes should not be made in a folder: it would fill its filesystem.
func RoomFor(dir string, size int64) error { return roomFor(dir, size) }

// ThisHost describes the machine, without a device.
func ThisHost() Host { return describeHost() }
