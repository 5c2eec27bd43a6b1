package ring

// Call is one request handed to a [Worker].
type Call struct {
	Request
	// Err is the outcome, valid once Done is called.
	Err error
	// Done runs on the worker's goroutine when the request has ended. It must not
	// block; it may hand further calls to the worker.
	Done func(*Call)

	next *Call //nolint:unused // link of the worker's inbox
}
