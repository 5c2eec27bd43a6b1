//go:build race

package engine

// raceDetector: everything is some ten times slower; long tests do less.
const raceDetector = true
