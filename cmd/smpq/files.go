package main

import (
	"cmp"
	"os"
)

// Files that a router writes. The names are those of smp-server.
const (
	storeLogName   = "smp-server-store.log"
	messageLogName = "smp-server-messages.log"
	journalName    = "messages"
)

// Where smp-server has its configuration and its files, unless variables name other
// folders.
const (
	configFolder  = "/etc/opt/simplex"
	stateFolder   = "/var/opt/simplex"
	stateVariable = "SMP_SERVER_LOG_PATH"
)

// serverState returns the folder of the files of smp-server.
func serverState() string { return cmp.Or(os.Getenv(stateVariable), stateFolder) }
