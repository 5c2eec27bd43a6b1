//go:build plant

package plant

// Active is the fault that is planted. Set it before whatever is tested starts.
var Active Fault

// On says whether a fault is planted.
func On(f Fault) bool { return f == Active }
