// Package admin does to single queues what the operator of a router asks for:
// status, block, unblock, delete. A router may run meanwhile: it hears of each
// change at once, and each is in the log of administrative changes.
package admin
