// Package web serves the pages of a router to browsers: one that says what the
// router is and who runs it, and one to which links of the protocol lead that begin
// with https. They are files in a folder, which another web server may serve as
// well.
//
// The second page is the same for all links. What is secret in a link comes after
// "#", which browsers do not send: its script makes a QR code of it, and a link that
// opens the app. Nothing on the pages is from elsewhere, and a policy tells browsers
// so.
package web
