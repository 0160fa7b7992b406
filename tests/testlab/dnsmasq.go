package testlab

// DHCPServer are the arguments that make dnsmasq the DHCP server of a range, such
// as "192.0.2.50,192.0.2.59,255.255.255.0".
func DHCPServer(addresses string) []string {
	return []string{"--dhcp-range=" + addresses + ",1h", "--dhcp-leasefile=/dev/null", "--dhcp-authoritative", "--leasefile-ro", "--no-ping"}
}

// RouterOn are those that make it advertise the /64 that a link has an address of
// (RFC 4862).
func RouterOn(link string) []string {
	return []string{"--enable-ra", "--dhcp-range=::,constructor:" + link + ",ra-only,64,1h"}
}
