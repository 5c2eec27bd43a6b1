// Package sim simulates the whole system, crash by crash.
package sim
