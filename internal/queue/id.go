package queue

import "github.com/smpq/smpq/internal/smp"

// A RecipientID names a queue to its recipient. The sender, the notifier and
// the link know the same queue by other ids. It is the primary key of a queue
// everywhere.
type RecipientID struct{ smp.EntityID }

// A SenderID names a queue to its sender.
type SenderID struct{ smp.EntityID }

// A NotifierID names a queue to its notifier.
type NotifierID struct{ smp.EntityID }

// A LinkID names a queue to whoever opens its short link.
type LinkID struct{ smp.EntityID }

// A ServiceID names a service: a high-volume client with a certificate.
type ServiceID struct{ smp.EntityID }

// A MessageID names a message within its queue.
type MessageID struct{ smp.EntityID }
