// Package control is the control port: a TCP port of this machine at which the operator
// asks how the router is and blocks queues, in lines of text, as at that of smp-server.
//
// A session has no role at first, and keeps the one that it gets by a password: that of
// a user, who sees numbers and blocks queues, or of an administrator, who may do all.
package control
