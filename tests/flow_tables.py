# ruff: noqa: E501
"""A small table of each preset, made by hand in the form that its tool writes."""

from __future__ import annotations

NFDUMP_HEADER = (
    "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,dtos,dir,nh,nhb,svln,dvln,ismc,odmc,"
    "idmc,osmc,mpls1,mpls2,mpls3,mpls4,mpls5,mpls6,mpls7,mpls8,mpls9,mpls10,cl,sl,al,ra,eng,exid,tr\n"
)
_NFDUMP_REST = (
    ",00:00:00:00:00:00,00:00:00:00:00:00,00:00:00:00:00:00,00:00:00:00:00:00" + ",0-0-0" * 10 + ",    0.000" * 3
)

ZEEK_HEADER = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n#open\t2026-01-01-00-00-00\n"
    "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\tresp_bytes\t"
    "conn_state\tlocal_orig\tlocal_resp\tmissed_bytes\thistory\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes\t"
    "tunnel_parents\n"
    "#types\ttime\tstring\taddr\tport\taddr\tport\tenum\tstring\tinterval\tcount\tcount\tstring\tbool\tbool\tcount\tstring\t"
    "count\tcount\tcount\tcount\tset[string]\n"
)

TABLES = {
    "nfdump": NFDUMP_HEADER
    + "2026-01-01 00:00:01,2026-01-01 00:00:03,1.250,192.0.2.1,198.51.100.2,1025,443,TCP,...AP.SF,0,8,3,300,2,200,7,9,"
    + "64512,64513,24,16,0,1,192.0.2.254,0.0.0.0,42,0"
    + _NFDUMP_REST
    + ",127.0.0.1,0/0,1,2026-01-01 00:01:00.000\n"
    + "2026-01-01 00:00:02,2026-01-01 00:00:02,0.000,2001:db8::1,2001:db8::2,0,32768,ICMP6,........,0,0,1,104,0,0,0,0,0,0,"
    + "0,0,0,0,0.0.0.0,0.0.0.0,0,0"
    + _NFDUMP_REST
    + ",0.0.0.0,0/0,1,2026-01-01 00:01:00.000\n"
    + "Summary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp\n2,404,4,100,0,101\n",
    "nfdump_short": "firstSeen,duration,proto,srcAddr,srcPort,dstAddr,dstPort,packets,bytes,flows\n"
    "2026-01-01 00:00:01.123,1.250,TCP,192.0.2.1,1025,198.51.100.2,443,3,300,1\n"
    "2026-01-01 00:00:02.000,0.000,ICMP6,2001:db8::1,0,2001:db8::2,128.0,1,104,1\n",
    "cidds": "Date first seen,Duration,Proto,Src IP Addr,Src Pt,Dst IP Addr,Dst Pt,Packets,Bytes,Flows,Flags,Tos,class,"
    "attackType,attackID,attackDescription\n"
    "2017-03-15 00:01:16.632,0.250,TCP  ,192.168.100.5,445,10074_40,58844.0,1,    108,1,.AP...,0,normal,---,---,---\n"
    "2017-03-15 00:01:17.000,2.000,ICMP ,EXT_SERVER,0,192.168.100.5,8.0,2, 2.1 M,1,......,0,attacker,pingScan,1,\n",
    "netshare": "srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt,type\n"
    "3221225985,3325256706,1025,53,UDP,1458298072364000.0,0.30563599999999997,2,120,background\n"
    "3221225985,3325256706,0,0,ICMP,1458298073000000.0,300.0,31,992,blacklist\n",
    "ugr16": "2016-03-18 10:47:50,1.500,192.0.2.1,198.51.100.2,1025,53,UDP,.A....,0,72,2,120,background\n"
    "2016-07-28 10:47:50,0.000,192.0.2.1,198.51.100.2,2048,25,TCP,.APRSF,0,0,9,999,anomaly-spam\n",
    "zeek": ZEEK_HEADER
    + "1655071209.953394\tCv1\t192.0.2.1\t1025\t198.51.100.2\t443\ttcp\tssl\t0.000002\t0\t0\tSF\tF\tT\t0\tShADadFf\t5\t400\t"
    + "4\t300\t(empty)\n"
    + "1655071210.000000\tCv2\t2001:db8::1\t128\t2001:db8::2\t129\ticmp\t-\t-\t-\t-\tOTH\tF\tT\t0\t-\t1\t104\t0\t0\t(empty)\n"
    + "#close\t2026-01-01-01-00-00\n",
    "zeek_json": '{"ts":1655071209.953394,"uid":"Cv1","id.orig_h":"192.0.2.1","id.orig_p":1025,"id.resp_h":"198.51.100.2",'
    '"id.resp_p":443,"proto":"tcp","duration":2e-06,"conn_state":"SF","history":"ShADadFf","orig_pkts":5,'
    '"orig_ip_bytes":400,"resp_pkts":4,"resp_ip_bytes":300}\n'
    '{"ts":"2022-06-12T22:00:10.000000Z","id.orig_h":"2001:db8::1","id.orig_p":128,"id.resp_h":"2001:db8::2",'
    '"id.resp_p":129,"proto":"icmp","orig_pkts":1,"orig_ip_bytes":104}\n',
    "eve": '{"timestamp":"2026-01-01T01:02:03.000004+0100","flow_id":1042873772049837,"in_iface":"eth0","ev'
    'ent_type":"flow","vlan":[42],"src_ip":"192.0.2.1","src_port":57656,"dest_ip":"198.51.100.2","dest_port":443,"proto":"TCP","app_proto":"tls","flow":{"pkts_toserver":5,"pkts_toclient":4,"bytes_toserver":470,"bytes_toclient":356,"start":"2026-01-01T01:00:01.250000+0100","end":"2026-01-01T01:00:02.750000+0100","age":1,"state":"closed","reason":"timeout","alerted":false},"tcp":{"tcp_flags":"1b","tcp_flags_ts":"1b","tcp_flags_tc":"1a","syn":true,"fin":true,"psh":true,"ack":true,"state":"closed"}}\n'
    '{"timestamp":"2026-01-01T01:02:04.000000+0100","flow_id":2242873772049838,"event_type":"flow","src_ip":"2001:0db8:0000:0000:0000:0000:0000:0001","dest_ip":"2001:0db8:0000:0000:0000:0000:0000:0002","proto":"IPv6-ICMP","icmp_type":128,"icmp_code":0,"response_icmp_type":129,"response_icmp_code":0,"flow":{"pkts_toserver":1,"pkts_toclient":1,"bytes_toserver":118,"bytes_toclient":118,"start":"2026-01-01T00:00:03.000000Z","end":"2026-01-01T00:00:03.000100Z","age":0,"state":"established","reason":"timeout","alerted":false}}\n',
    "binetflow": "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,sTos,dTos,TotPkts,TotBytes,SrcBytes,Label\n"
    "2011/08/10 09:46:53.047277,3550.182373,udp,212.50.71.179,39678,  <->,147.32.84.229,13363,CON,0,0,12,875,413,"
    "flow=Background-UDP-Established\n"
    "2011/08/10 09:46:53.048843,0.000883,tcp,192.0.2.1,1025,   ->,198.51.100.2,443,FSPA_SRA,0,0,7,700,700,flow=From-Botnet\n"
    "2011/08/10 09:46:54.000000,0.000000,icmp,192.0.2.1,0x0008,  <->,198.51.100.2,0x0000,ECO,0,,2,196,98,flow=Normal\n"
    "2011/08/10 09:46:55.000000,0.000000,arp,192.0.2.1,,  who,198.51.100.2,,CON,,,2,120,60,flow=Background\n",
    "argus": "StartTime,Flgs,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,SrcPkts,DstPkts,SrcBytes,DstBytes,State,Dur\n"
    "1312969613.047277, e         ,tcp,192.0.2.1,1025,->,198.51.100.2,443,5,4,400,300,FSPA_FSPA,1.500000\n"
    "2011-08-10 09:46:55.000000, e         ,udp,192.0.2.1,1025,<->,198.51.100.2,53,1,1,60,90,CON,0.020000\n",
    "luflow": "avg_ipt,bytes_in,bytes_out,dest_ip,dest_port,entropy,num_pkts_out,num_pkts_in,proto,src_ip,src_port,time_end,"
    "time_start,total_entropy,label,duration\n"
    "52.5,270,191,786,445,4.58,6,7,6,47331,56965,1594168229367522,159416822896877,2115.3,malicious,0.3\n"
    "0.0,84,0,786,,0.0,0,1,1,786,,1594168230200001,15941682301,0.0,benign,0.0\n",
    "westermo": "sAddress,rAddress,sMACs,rMACs,sIPs,rIPs,protocol,startDate,endDate,start,end,duration,sPackets,rPackets,"
    "sBytesSum,rBytesSum,IT_B_Label,IT_M_Label,NST_B_Label,NST_M_Label\n"
    "192.0.2.1,192.0.2.2,02:00:00:00:00:01,02:00:00:00:00:02,192.0.2.1,192.0.2.2,IPV4-TCP,2023-03-10 10:29:34.085540,"
    "2023-03-10 10:29:34.565764,1678440574.08554,1678440574.565764,0.480225,42,30,2478,1866,0,Normal,1,BAD-SSH\n"
    "02:00:00:00:00:01,ff:ff:ff:ff:ff:ff,02:00:00:00:00:01,ff:ff:ff:ff:ff:ff,,,ARP,2023-03-10 10:29:34.0,"
    "2023-03-10 10:29:34.0,1678440574.0,1678440574.0,0.0,1,0,42,0,0,Normal,0,Normal\n",
    "plain": "ts_first,duration,proto,src_ip,dst_ip,src_port,dst_port,packets,bytes,tcp_flags,src_as,dst_as,in_if,out_if,tos\n"
    "1565635847.958,2155.052,6,192.0.2.1,198.51.100.2,443,41322,3000,4500000,...A..S.,64512,64513,1170,1264,8\n"
    "1565635848.042,0.000,1,192.0.2.1,198.51.100.2,0,3.13,1,56,........,0,0,0,0,0\n",
}
