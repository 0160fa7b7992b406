// Package cnierr carries an error from where it happens to the runtime: its
// CNI code, what was being done to what, and the remedy.
//
// The codes are those of the CNI specification, section "Error".
package cnierr

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
)

// AddressConflict is this project's own error code (the specification leaves
// 100 and above to plugins): an address is held by somebody else.
const AddressConflict uint = 100

// Drift is this project's own error code for CHECK: the kernel's state is not
// what ADD made.
const Drift uint = 101

// TryAgain is part of the text of every error that may pass by itself, so
// that a caller that sees only text, as cnitool's does, can tell.
const TryAgain = "try again"

// StillToCome is, beside TryAgain, part of the text of every error of a host whose own network
// may not be up yet.
const StillToCome = "still to come"

// Error is an error with a CNI code. Its text is one line that names the key
// or object, the value and what is wrong with it; Remedy says what to do.
type Error struct {
	Code   uint
	Text   string
	Remedy string
	Cause  error
}

func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Text
	}
	return e.Text + ": " + e.Cause.Error()
}

func (e *Error) Unwrap() error { return e.Cause }

// New makes an error of a code out of a text and a remedy.
func New(code uint, remedy, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Config is an error in the network configuration (code 7): the value of a
// key and what is wrong with it.
func Config(key string, value any, problem, remedy string) *Error {
	return New(types.ErrInvalidNetworkConfig, remedy, "%s: %s: %s", key, quote(value), problem)
}

// Transient is an error that may pass by itself (code 11).
func Transient(remedy, format string, args ...any) *Error {
	return New(types.ErrTryAgainLater, remedy+"; "+TryAgain+" later", format, args...)
}

// OrLater is a remedy for what may also come by itself, such as the master.
func OrLater(remedy, what string) string {
	return fmt.Sprintf("%s; or, if %s is %s, %s later", remedy, what, StillToCome, TryAgain)
}

func quote(value any) string {
	if s, ok := value.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(value)
}

// ToCNI turns any error into the error that the specification asks a plugin
// to print. The whole chain's text becomes the message; code and remedy are
// those of the first Error or types.Error in the chain, or else code 999.
func ToCNI(err error) *types.Error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return types.NewError(own.Code, err.Error(), own.Remedy)
	}
	var foreign *types.Error
	if errors.As(err, &foreign) {
		return types.NewError(foreign.Code, err.Error(), "")
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}
