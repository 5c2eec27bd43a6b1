package ring

// SetupSteps is how many steps down there are from the best set of setup flags.
var SetupSteps = len(setupSteps)

// StepDown makes d behave as on a kernel that refuses the first n sets of setup flags.
func StepDown(d Devices, n int) Devices {
	u := d.(*uringDevices)
	return &uringDevices{deviceSet: u.deviceSet, steps: setupSteps[n:]}
}
