package watch

// routeProtocol marks our routes and rules (rtm_protocol, rtnetlink(7)).
const routeProtocol = 118
